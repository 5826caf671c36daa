"""The command line of CrossLogic."""
