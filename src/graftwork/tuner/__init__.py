"""The PEFT method: settings, pools, layers, and the model that PEFT sees."""
