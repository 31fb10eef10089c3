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

// adoption is what a manifest needs to know that the agent does not.
type adoption struct {
	class, driver, nfsServer, claim string
	secretName, secretNamespace     string
	agentURL                        string
}

func adoptManifestCommand() *cobra.Command {
	var a adoption
	command := &cobra.Command{
		Use: "adopt-manifest VOLUME...", Short: "Print PersistentVolumes for volumes that exist, for a new cluster after the loss of one",
		Long: `Prints a PersistentVolume for each volume, which keeps the volume when it is deleted; with --claim also a claim that is bound to it. The class need
not be the one that the volume was made with, but must lead to the same agent and tenant.`,
		Example: "  btrfs-nfs-agent volume adopt-manifest db --class btrfs --claim shop/db | kubectl apply -f -",
		Args:    arguments(cobra.MinimumNArgs(1)), ValidArgsFunction: completeVolumes,
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
	flags.StringVar(&a.nfsServer, "nfs-server", "", "address of the NFS server; without it the host of the agent's URL")
	flags.StringVar(&a.claim, "claim", "", "also a claim, NAMESPACE/NAME; for one volume")
	flags.StringVar(&a.secretName, "secret-name", "", "secret with the agent's token, where the class does not exist")
	flags.StringVar(&a.secretNamespace, "secret-namespace", "", "its namespace")
	return command
}

func (a adoption) validate(names []string) error {
	namespace, name, found := strings.Cut(a.claim, "/")
	switch {
	case a.class == "":
		return usageErrorf("--class is missing")
	case a.claim != "" && (!found || namespace == "" || name == ""):
		return usageErrorf("--claim is %q, it must be NAMESPACE/NAME", a.claim)
	case a.claim != "" && len(names) > 1:
		return usageErrorf("--claim is for one volume")
	case (a.secretName == "") != (a.secretNamespace == ""):
		return usageErrorf("--secret-name and --secret-namespace are only good together")
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

// objectName makes a name of Kubernetes (DNS-1123 subdomain) of a volume's, which may have capitals, underscores, and dots in a row. What is not
// the volume's own name ends with a hash of that, so that no two volumes have one name.
func (a adoption) objectName(name string) string {
	if subdomain.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.Trim(strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)), "-") + "-" + hex.EncodeToString(sum[:4])
}

// subdomain is that of RFC 1123 as Kubernetes has it; its limit of 253 characters is more than a volume's name can have.
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
