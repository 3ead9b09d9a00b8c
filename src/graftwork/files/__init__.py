"""Files: reading that expects damaged or hostile files, and writing that never leaves half of one."""
