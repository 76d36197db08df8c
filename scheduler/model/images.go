package model

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// setImages notes which images a node has.
func (c *Cluster) setImages(n *Node, list []corev1.ContainerImage) {
	var images map[string]int64
	for i := range list {
		for _, name := range list[i].Names {
			if images == nil {
				images = map[string]int64{}
			}
			images[name] = list[i].SizeBytes
		}
	}
	if maps.Equal(images, n.images) {
		return
	}
	for name := range n.images {
		if c.images[name]--; c.images[name] == 0 {
			delete(c.images, name)
		}
	}
	for name := range images {
		c.images[name]++
	}
	n.images = images
	c.Shared++
}

// HasImages tells whether any node tells of any image.
func (c *Cluster) HasImages() bool { return len(c.images) > 0 }

// Image gives the size in bytes that a node has of an image, as pods name it, and the part of the known nodes that have it.
func (c *Cluster) Image(n *Node, name string) (size int64, spread float64) {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		name += ":latest"
	}
	size, has := n.images[name]
	if !has {
		return 0, 0
	}
	return size, float64(c.images[name]) / float64(len(c.sorted))
}
