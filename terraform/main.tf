# A subordinate: it has no units of its own, its relations decide where it runs.
resource "juju_application" "pci_passthrough" {
  name       = var.app_name
  model_uuid = var.model_uuid
  config     = var.config

  charm {
    name     = "pci-passthrough"
    base     = var.base
    channel  = var.channel
    revision = var.revision
  }
}

resource "juju_integration" "nova_cloud_controller" {
  count      = var.nova_cloud_controller == null ? 0 : 1
  model_uuid = var.model_uuid

  application {
    name     = juju_application.pci_passthrough.name
    endpoint = "nova-cloud-controller"
  }

  application {
    name     = var.nova_cloud_controller
    endpoint = "nova-vmware"
  }
}

resource "juju_integration" "nova_compute" {
  count      = var.nova_compute == null ? 0 : 1
  model_uuid = var.model_uuid

  application {
    name     = juju_application.pci_passthrough.name
    endpoint = "juju-info"
  }

  application {
    name     = var.nova_compute
    endpoint = "juju-info"
  }
}

resource "juju_integration" "nrpe" {
  count      = var.nrpe == null ? 0 : 1
  model_uuid = var.model_uuid

  application {
    name     = juju_application.pci_passthrough.name
    endpoint = "nrpe-external-master"
  }

  application {
    name     = var.nrpe
    endpoint = "nrpe-external-master"
  }
}
