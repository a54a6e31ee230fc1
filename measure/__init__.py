"""Kit that derives what the app ships: profiles, traces, load points. Run by hand, never needed at run time."""
