variable "app_name" {
  description = "The application's name. Its files on the hosts carry it."
  type        = string
  default     = "pci-passthrough"
}

variable "base" {
  description = "The base of the principals, such as ubuntu@24.04: a subordinate has theirs."
  type        = string
  default     = "ubuntu@24.04"
}

variable "channel" {
  description = "The channel to deploy from."
  type        = string
  default     = "latest/stable"
}

variable "config" {
  description = "The charm's options, for example { devices = \"gpu=10de:1bb0\" }."
  type        = map(string)
  default     = {}
}

variable "model_uuid" {
  description = "The uuid of the Juju model that holds nova-compute."
  type        = string
  nullable    = false
}

variable "nova_cloud_controller" {
  description = "The nova-cloud-controller application that learns the aliases; null leaves it out."
  type        = string
  default     = null
}

variable "nova_compute" {
  description = "The nova-compute application to stand beside; null leaves the relation to the caller."
  type        = string
  default     = null
}

variable "nrpe" {
  description = "The nrpe application beside nova-compute that watches for drift; null leaves it out."
  type        = string
  default     = null
}

variable "revision" {
  description = "The revision of the charm; the channel's newest where it is left out."
  type        = number
  default     = null
}
