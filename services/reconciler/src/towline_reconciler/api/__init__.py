"""The `Application` resource: its shapes, its conditions and the definition that a cluster is given."""
