"""Studies: each file is one piece of research as rows. `study` defines the row types; read it first."""
