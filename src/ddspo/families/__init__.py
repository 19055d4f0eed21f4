"""Model families: one narrow adapter each behind one interface, and the roles that policy and reference play."""
