"""The nets (backbones, recurrent), the conditional VAE and its rollout, and the objective."""
