"""Many runs: their jobs, how they are launched and watched, and what they share in memory."""
