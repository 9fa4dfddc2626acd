"""The model families: L-RN1 and L-RN2, L-T11 to L-T22. `hf_ncollapse` itself has their public names."""
