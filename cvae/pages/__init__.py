"""What reports and studies draw with: text, tables and pictures as HTML or Markdown, and curves as PNG."""
