"""A2A, the Agent2Agent protocol: every assistant whose graph takes messages is an agent."""
