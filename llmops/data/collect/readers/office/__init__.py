"""Office documents, e-books and e-mails, one module per kind."""
