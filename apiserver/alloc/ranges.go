package alloc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/coracle-dev/coracle/apiserver/store"
)

const (
	// ipPrefix is where upstream keeps its IPAddress objects, which is what our keys hold.
	ipPrefix = store.Root + "ipaddresses/"
	// portPrefix holds a key per port; upstream has one bitmap at this path's parent.
	portPrefix = store.Root + "ranges/servicenodeports/"
	// managedBy is how upstream's allocator labels its addresses.
	managedBy = "ipallocator.k8s.io"
	// uidAnnotation tells apart Services of one name.
	uidAnnotation = "coracle.dev/service-uid"

	// maxSlots bounds what a range costs in memory: upstream takes no larger one either.
	maxSlots = 1 << 20
)

// newIPPool numbers the addresses of an IPv4 range from its second to its last but one.
func newIPPool(s store.Store, cidr netip.Prefix) (*pool, error) {
	cidr = cidr.Masked()
	if !cidr.IsValid() || !cidr.Addr().Is4() {
		return nil, fmt.Errorf("service range %s: must be an IPv4 prefix", cidr)
	}
	size := 1<<(32-cidr.Bits()) - 2
	if size < 1 || size > maxSlots {
		return nil, fmt.Errorf("service range %s: must be between /12 and /30", cidr)
	}
	first := binary.BigEndian.Uint32(cidr.Addr().AsSlice()) + 1
	p := &pool{
		store: s, prefix: ipPrefix, size: size, shown: cidr.String(),
		static:   staticBand(size+2, 16, 256, 16),
		errTaken: errIPTaken,
		nameOf: func(slot int) string {
			var raw [4]byte
			binary.BigEndian.PutUint32(raw[:], first+uint32(slot))
			return netip.AddrFrom4(raw).String()
		},
		slotOf: func(name string) (int, bool) {
			addr, err := netip.ParseAddr(name)
			if err != nil || !addr.Is4() || !cidr.Contains(addr) {
				return 0, false
			}
			slot := int(binary.BigEndian.Uint32(addr.AsSlice())) - int(first)
			return slot, slot >= 0 && slot < size
		},
		encode: encodeIP,
		decode: decodeIP,
	}
	p.init()
	return p, nil
}

func newPortPool(s store.Store, first, last int32) (*pool, error) {
	if first < 1 || last > 65535 || first > last {
		return nil, fmt.Errorf("node port range %d-%d: must lie within 1-65535", first, last)
	}
	size := int(last-first) + 1
	p := &pool{
		store: s, prefix: portPrefix, size: size, first: first, shown: fmt.Sprintf("%d-%d", first, last),
		static:   staticBand(size, 16, 128, 32),
		errTaken: errors.New("provided port is already allocated"),
		nameOf:   func(slot int) string { return strconv.Itoa(int(first) + slot) },
		slotOf: func(name string) (int, bool) {
			port, err := strconv.Atoi(name)
			slot := port - int(first)
			return slot, err == nil && slot >= 0 && slot < size
		},
		encode: func(_ string, o owner) ([]byte, error) { return json.Marshal(o) },
		decode: func(value []byte) (o owner, err error) { return o, json.Unmarshal(value, &o) },
	}
	p.init()
	return p, nil
}

// staticBand is how many slots of a range upstream leaves to those who choose their own: one in step, within bounds.
func staticBand(size, low, high, step int) int {
	if size <= low {
		return 0
	}
	return min(max(low, size/step), high)
}

var errIPTaken = errors.New("provided IP is already allocated")

// errForeign tells of an IPAddress that is not a Service's: somebody keeps it for another purpose.
var errForeign = errors.New("not an address of a service")

// envelope reads and writes values as upstream does: protobuf behind "k8s\x00".
var envelope = sync.OnceValue(func() *protobuf.Serializer {
	scheme := runtime.NewScheme()
	utilruntime.Must(networkingv1.AddToScheme(scheme))
	utilruntime.Must(corev1.AddToScheme(scheme))
	return protobuf.NewSerializer(scheme, scheme)
})

func encodeIP(name string, o owner) ([]byte, error) {
	obj := &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: managedBy},
			Annotations: map[string]string{uidAnnotation: string(o.UID)},

			UID: uuid.NewUUID(), Generation: 1, CreationTimestamp: metav1.Now().Rfc3339Copy(),
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: o.Namespace, Name: o.Name}},
	}
	var out bytes.Buffer
	if err := envelope().Encode(obj, &out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func decodeIP(value []byte) (owner, error) {
	obj, _, err := envelope().Decode(value, nil, nil)
	if err != nil {
		return owner{}, err
	}
	ip, ok := obj.(*networkingv1.IPAddress)
	if !ok || ip.Labels[networkingv1.LabelManagedBy] != managedBy {
		return owner{}, errForeign
	}
	if ip.Spec.ParentRef == nil {
		return owner{}, nil
	}
	ref := ip.Spec.ParentRef
	return owner{Namespace: ref.Namespace, Name: ref.Name, UID: types.UID(ip.Annotations[uidAnnotation])}, nil
}

// storedUID reads the UID of a stored Service.
func storedUID(value []byte) (types.UID, error) {
	obj, _, err := envelope().Decode(value, nil, nil)
	if err != nil {
		return "", err
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return "", fmt.Errorf("not a service: %T", obj)
	}
	return svc.UID, nil
}
