"""Reports as tables: for terminals, as Markdown, CSV, HTML and JSON."""
