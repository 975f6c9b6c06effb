"""Models of many kinds under equal budgets: bits per byte, speed, memory."""
