"""What :class:`sb3_elmur.RecurrentPPO` adds to PPO: trust region, average, scaled rewards, compiled steps, many processes."""
