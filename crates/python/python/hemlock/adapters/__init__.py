"""Other libraries' models and interfaces. Each file is one library, and imports it only when it is used."""
