"""What turns a program into something that runs: one folder per target."""
