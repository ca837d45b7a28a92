output "app_name" {
  description = "The application's name."
  value       = juju_application.pci_passthrough.name
}

output "provides" {
  description = "The endpoints that the charm provides."
  value = {
    nova_cloud_controller = "nova-cloud-controller"
    nova_pci              = "nova-pci"
    nrpe_external_master  = "nrpe-external-master"
  }
}

output "requires" {
  description = "The endpoints that the charm requires."
  value = {
    juju_info = "juju-info"
  }
}
