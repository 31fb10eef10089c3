package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// adoption contains the fields of a manifest that the agent does not have.
type adoption struct {
	class, driver, nfsServer, claim string
	secretName, secretNamespace     string
	agentURL                        string
}

func adoptManifestCommand() *cobra.Command {
	var a adoption
	command := &cobra.Command{
		Use: "adopt-manifest VOLUME...", Short: "Print PersistentVolumes for existing volumes, for a new cluster",
		Long: `Prints a PersistentVolume with the reclaim policy Retain for each volume. --claim also prints a PersistentVolumeClaim that is bound to it.
The storage class must use the same agent and tenant as the class that created the volume.`,
		Example: "  btrfs-nfs-agent volume adopt-manifest db --class btrfs --claim shop/db | kubectl apply -f -",
		Args:    arguments(cobra.MinimumNArgs(1)), ValidArgsFunction: volumeNames.argument,
		RunE: with(func(s *session, command *cobra.Command, names []string) error {
			a.agentURL = s.url
			if err := a.validate(names); err != nil {
				return err
			}
			for _, name := range names {
				v, err := s.GetVolume(command.Context(), name)
				if err != nil {
					return err
				}
				for _, object := range a.objects(*v) {
					text, err := yaml.Marshal(object)
					if err != nil {
						return err
					}
					fmt.Fprintf(s.out, "---\n%s", text)
				}
			}
			return nil
		}),
	}
	flags := command.Flags()
	flags.StringVar(&a.class, "class", "", "StorageClass; required")
	flags.StringVar(&a.driver, "driver", "btrfs-nfs-csi", "name of the CSI driver")
	flags.StringVar(&a.nfsServer, "nfs-server", "", "address of the NFS server (default: the host of the agent's URL)")
	flags.StringVar(&a.claim, "claim", "", "also print a PersistentVolumeClaim, NAMESPACE/NAME (one volume only)")
	flags.StringVar(&a.secretName, "secret-name", "", "secret with the agent's token, if the class does not exist")
	flags.StringVar(&a.secretNamespace, "secret-namespace", "", "namespace of the secret")
	return command
}

func (a adoption) validate(names []string) error {
	namespace, name, found := strings.Cut(a.claim, "/")
	switch {
	case a.class == "":
		return usageErrorf("--class must be set")
	case a.claim != "" && (!found || namespace == "" || name == ""):
		return usageErrorf("--claim must be NAMESPACE/NAME, got %q", a.claim)
	case a.claim != "" && len(names) > 1:
		return usageErrorf("--claim must be used with one volume")
	case (a.secretName == "") != (a.secretNamespace == ""):
		return usageErrorf("--secret-name and --secret-namespace must be used together")
	}
	return nil
}

type object map[string]any

func (a adoption) objects(v volume) []object {
	attributes := object{"agentURL": a.agentURL}
	if a.nfsServer != "" {
		attributes["nfsServer"] = a.nfsServer
	}
	csi := object{"driver": a.driver, "volumeHandle": id.NewVolume(a.class, v.Name).String(), "volumeAttributes": attributes}
	if a.secretName != "" {
		secret := object{"name": a.secretName, "namespace": a.secretNamespace}
		csi["controllerPublishSecretRef"], csi["controllerExpandSecretRef"] = secret, secret
	}
	name := a.objectName(v.Name)
	size, modes := strconv.FormatInt(v.SizeBytes, 10), []string{"ReadWriteMany"}
	spec := object{
		"capacity": object{"storage": size}, "accessModes": modes, "persistentVolumeReclaimPolicy": "Retain",
		"storageClassName": a.class, "volumeMode": "Filesystem", "csi": csi,
	}
	volume := object{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": object{"name": name}, "spec": spec}
	if a.claim == "" {
		return []object{volume}
	}
	namespace, claim, _ := strings.Cut(a.claim, "/")
	spec["claimRef"] = object{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim}
	return []object{volume, {
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": object{"name": claim, "namespace": namespace},
		"spec": object{"accessModes": modes, "storageClassName": a.class, "volumeName": name, "resources": object{"requests": object{"storage": size}}},
	}}
}

// objectName converts a volume's name, which may have capitals, underscores and repeated dots, to a
// Kubernetes name (DNS-1123 subdomain). A changed name gets a hash of the original as its suffix,
// so that names stay unique.
func (a adoption) objectName(name string) string {
	if subdomain.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.Trim(strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)), "-") + "-" + hex.EncodeToString(sum[:4])
}

// subdomain matches Kubernetes' form of an RFC 1123 subdomain. Volume names are shorter than its
// limit of 253 characters.
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
