// SPDX-License-Identifier: GPL-2.0-only
/*
 * A vDPA device on QEMU's "edu" card, as a NIC's native driver makes one of a VF.
 *
 * Debian's kernels have vhost-vdpa, and no driver whose vDPA device stands on a PCI function. This
 * one moves no data: what a process sets is taken and forgotten. What matters is the device's place
 * in sysfs, and that vhost-vdpa gives it a node which one process at a time can open.
 *
 * Sources: include/linux/vdpa.h for what each operation has to do; drivers/vhost/vdpa.c for those
 * that it calls.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vdpa.h>
#include <uapi/linux/virtio_config.h>
#include <uapi/linux/virtio_ids.h>

#define LAB_QUEUES 2
#define LAB_QUEUE_SIZE 256

struct lab_vdpa {
	struct vdpa_device vdpa;
	struct virtio_net_config config;
	u64 features;
	u8 status;
	bool ready[LAB_QUEUES];
};

static struct lab_vdpa *lab_of(struct vdpa_device *vdpa)
{
	return container_of(vdpa, struct lab_vdpa, vdpa);
}

static int lab_set_vq_address(struct vdpa_device *vdpa, u16 queue, u64 descriptors, u64 driver,
			      u64 device)
{
	return 0;
}

static void lab_set_vq_num(struct vdpa_device *vdpa, u16 queue, u32 number)
{
}

static void lab_kick_vq(struct vdpa_device *vdpa, u16 queue)
{
}

static void lab_set_vq_cb(struct vdpa_device *vdpa, u16 queue, struct vdpa_callback *callback)
{
}

static void lab_set_vq_ready(struct vdpa_device *vdpa, u16 queue, bool ready)
{
	lab_of(vdpa)->ready[queue] = ready;
}

static bool lab_get_vq_ready(struct vdpa_device *vdpa, u16 queue)
{
	return lab_of(vdpa)->ready[queue];
}

static int lab_set_vq_state(struct vdpa_device *vdpa, u16 queue, const struct vdpa_vq_state *state)
{
	return 0;
}

static int lab_get_vq_state(struct vdpa_device *vdpa, u16 queue, struct vdpa_vq_state *state)
{
	memset(state, 0, sizeof(*state));
	return 0;
}

static u32 lab_get_vq_align(struct vdpa_device *vdpa)
{
	return PAGE_SIZE;
}

static u64 lab_get_device_features(struct vdpa_device *vdpa)
{
	return BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM);
}

static int lab_set_driver_features(struct vdpa_device *vdpa, u64 features)
{
	lab_of(vdpa)->features = features;
	return 0;
}

static u64 lab_get_driver_features(struct vdpa_device *vdpa)
{
	return lab_of(vdpa)->features;
}

static void lab_set_config_cb(struct vdpa_device *vdpa, struct vdpa_callback *callback)
{
}

static u16 lab_get_vq_num_max(struct vdpa_device *vdpa)
{
	return LAB_QUEUE_SIZE;
}

static u32 lab_get_device_id(struct vdpa_device *vdpa)
{
	return VIRTIO_ID_NET;
}

static u32 lab_get_vendor_id(struct vdpa_device *vdpa)
{
	return to_pci_dev(vdpa->dev.parent)->vendor;
}

static u8 lab_get_status(struct vdpa_device *vdpa)
{
	return lab_of(vdpa)->status;
}

static void lab_set_status(struct vdpa_device *vdpa, u8 status)
{
	lab_of(vdpa)->status = status;
}

static int lab_reset(struct vdpa_device *vdpa)
{
	struct lab_vdpa *lab = lab_of(vdpa);

	lab->features = 0;
	lab->status = 0;
	memset(lab->ready, 0, sizeof(lab->ready));
	return 0;
}

static size_t lab_get_config_size(struct vdpa_device *vdpa)
{
	return sizeof(struct virtio_net_config);
}

static void lab_get_config(struct vdpa_device *vdpa, unsigned int offset, void *buffer,
			   unsigned int length)
{
	struct lab_vdpa *lab = lab_of(vdpa);

	if (offset <= sizeof(lab->config) && length <= sizeof(lab->config) - offset)
		memcpy(buffer, (u8 *)&lab->config + offset, length);
}

static void lab_set_config(struct vdpa_device *vdpa, unsigned int offset, const void *buffer,
			   unsigned int length)
{
	struct lab_vdpa *lab = lab_of(vdpa);

	if (offset <= sizeof(lab->config) && length <= sizeof(lab->config) - offset)
		memcpy((u8 *)&lab->config + offset, buffer, length);
}

/* With an operation of its own for mappings, vhost-vdpa asks for no IOMMU domain. */
static int lab_set_map(struct vdpa_device *vdpa, unsigned int space, struct vhost_iotlb *mappings)
{
	return 0;
}

static const struct vdpa_config_ops lab_ops = {
	.set_vq_address = lab_set_vq_address,
	.set_vq_num = lab_set_vq_num,
	.kick_vq = lab_kick_vq,
	.set_vq_cb = lab_set_vq_cb,
	.set_vq_ready = lab_set_vq_ready,
	.get_vq_ready = lab_get_vq_ready,
	.set_vq_state = lab_set_vq_state,
	.get_vq_state = lab_get_vq_state,
	.get_vq_align = lab_get_vq_align,
	.get_device_features = lab_get_device_features,
	.set_driver_features = lab_set_driver_features,
	.get_driver_features = lab_get_driver_features,
	.set_config_cb = lab_set_config_cb,
	.get_vq_num_max = lab_get_vq_num_max,
	.get_device_id = lab_get_device_id,
	.get_vendor_id = lab_get_vendor_id,
	.get_status = lab_get_status,
	.set_status = lab_set_status,
	.reset = lab_reset,
	.get_config_size = lab_get_config_size,
	.get_config = lab_get_config,
	.set_config = lab_set_config,
	.set_map = lab_set_map,
};

static int lab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct lab_vdpa *lab;
	int error;

	lab = vdpa_alloc_device(struct lab_vdpa, vdpa, &pdev->dev, &lab_ops, 1, 1, NULL, false);
	if (IS_ERR(lab))
		return PTR_ERR(lab);
	lab->vdpa.dma_dev = &pdev->dev;
	error = vdpa_register_device(&lab->vdpa, LAB_QUEUES);
	if (error) {
		put_device(&lab->vdpa.dev);
		return error;
	}
	pci_set_drvdata(pdev, lab);
	return 0;
}

/* As every driver of a vDPA device does, this waits until nobody has its node open any more. */
static void lab_remove(struct pci_dev *pdev)
{
	struct lab_vdpa *lab = pci_get_drvdata(pdev);

	vdpa_unregister_device(&lab->vdpa);
}

static const struct pci_device_id lab_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, lab_ids);

static struct pci_driver lab_driver = {
	.name = "lab-vdpa",
	.id_table = lab_ids,
	.probe = lab_probe,
	.remove = lab_remove,
};
module_pci_driver(lab_driver);

MODULE_DESCRIPTION("A vDPA device on QEMU's edu card");
MODULE_LICENSE("GPL");
