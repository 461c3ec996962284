"""The controller: schedules a run and keeps its books."""
