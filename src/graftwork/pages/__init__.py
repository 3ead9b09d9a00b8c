"""What people look at in a browser: pages of plain data, with their templates and charts."""
