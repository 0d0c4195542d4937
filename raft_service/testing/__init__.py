"""In-memory doubles that ship with the package: transport, storage, clusters on virtual time."""
