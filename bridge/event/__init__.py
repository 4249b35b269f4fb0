"""Event: changes in the words of our public contract: types, documents, CloudEvents, schemas."""
