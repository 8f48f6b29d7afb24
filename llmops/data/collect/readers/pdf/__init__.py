"""PDF files: words by PDFium or tesseract, their lines in the order of reading, and headings."""
