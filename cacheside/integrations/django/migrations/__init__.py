"""The table of the outbox, if the settings ask for one."""
