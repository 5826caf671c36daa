"""What an organisation owes for a month."""
