output "application" {
  description = "The application, as the provider has it: its name, its charm, its model."
  value       = juju_application.pci_passthrough
}

output "provides" {
  description = "The endpoints that the charm provides."
  value = {
    cos_agent             = "cos-agent"
    metrics_endpoint      = "metrics-endpoint"
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
