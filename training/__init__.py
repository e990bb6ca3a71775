"""How a network is trained, recorded, asked and saved."""
