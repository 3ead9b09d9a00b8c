from __future__ import annotations

import os

# Before anything imports huggingface_hub, which reads this once: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
