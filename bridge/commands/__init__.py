"""What people and programs ask of the bridge through the inbox, and what they are answered."""
