"""From the start of the gates to the compact model: schedule, search, discretisation, compaction."""
