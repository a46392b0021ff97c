"""The engine against PyTorch and diffusers, side by side; see main.py."""
