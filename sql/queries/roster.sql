SELECT version, applied, trouble FROM roster
