"""Model upgrades: traffic goes from one version to the next by steps, and back when that was no good."""
