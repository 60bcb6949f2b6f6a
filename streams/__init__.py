"""Delivers what `efficientrec` decides: Kafka, clock, environment, HTTP."""
