"""Chapter 3: what a distiller is asked (`prompts`), what it said (`parsing`), and whether it may teach (`quality`)."""
