"""What study pages and reports are made of: text, tables and pictures as HTML or Markdown, and curves as PNG."""
