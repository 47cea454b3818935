"""The verbs around a rollout. All of them work on its journal."""
