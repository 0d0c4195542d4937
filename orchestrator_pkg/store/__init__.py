"""Object stores behind one interface, blocks and datasets."""
