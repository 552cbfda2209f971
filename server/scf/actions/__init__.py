"""SCF's actions by noun: each module has one table ACTIONS; `server.scf.table` puts them together."""
