terraform {
  required_version = ">= 1.6"

  required_providers {
    juju = {
      source = "juju/juju"
      # 1.0 replaced the model's name by its uuid.
      version = ">= 1.0.0, < 3.0.0"
    }
  }
}
