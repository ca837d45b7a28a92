// SPDX-License-Identifier: GPL-2.0-only
/*
 * A variant of vfio-pci for QEMU's e1000e, as mlx5_vfio_pci is one for ConnectX.
 *
 * Debian's kernels for amd64 have no variant. This one does what vfio-pci does, by the same core; it
 * differs in what others see: its name, which is not its module's, and its alias "vfio_pci:".
 *
 * Sources: include/linux/vfio_pci_core.h and vfio.h for the operations; PCI_DRIVER_OVERRIDE_DEVICE_VFIO
 * in include/linux/pci.h for the alias.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vfio_pci_core.h>

static int lab_open(struct vfio_device *device)
{
	struct vfio_pci_core_device *core =
		container_of(device, struct vfio_pci_core_device, vdev);
	int error = vfio_pci_core_enable(core);

	if (!error)
		vfio_pci_core_finish_enable(core);
	return error;
}

static const struct vfio_device_ops lab_ops = {
	.name = "lab-variant",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = lab_open,
	.close_device = vfio_pci_core_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static int lab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vfio_pci_core_device *core;
	int error;

	core = vfio_alloc_device(vfio_pci_core_device, vdev, &pdev->dev, &lab_ops);
	if (IS_ERR(core))
		return PTR_ERR(core);
	dev_set_drvdata(&pdev->dev, core);
	error = vfio_pci_core_register_device(core);
	if (error)
		vfio_put_device(&core->vdev);
	return error;
}

static void lab_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(core);
	vfio_put_device(&core->vdev);
}

static const struct pci_device_id lab_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(0x8086, 0x10d3) },
	{ }
};
MODULE_DEVICE_TABLE(pci, lab_ids);

static struct pci_driver lab_driver = {
	.name = "lab-variant",
	.id_table = lab_ids,
	.probe = lab_probe,
	.remove = lab_remove,
	.err_handler = &vfio_pci_core_err_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(lab_driver);

MODULE_DESCRIPTION("A variant of vfio-pci for QEMU's e1000e");
MODULE_LICENSE("GPL");
