"""What people look at: the command line and the reports it prints, over a journal."""
