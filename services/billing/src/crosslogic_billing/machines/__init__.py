"""What machines cost, from whoever knows how long they ran."""
