/** Paths of the configuration, made absolute: pure. */
import { withAttestationPaths } from '../boot/attestation-settings.ts';
import { trustedImageAt } from '../boot/trusted-boot.ts';
import type { HardwareNodeSettings, HardwareSettings } from './settings.ts';

type At = (path: string) => string;
type Bmc = HardwareNodeSettings['bmc'];

function inBmc<Part extends Partial<Bmc>>(bmc: Part, at: At): Part {
  return {
    ...bmc,
    ...(bmc.credentials === undefined ? {} : { credentials: at(bmc.credentials) }),
    ...(bmc.ca === undefined ? {} : { ca: at(bmc.ca) }),
  };
}

function inHttp(http: NonNullable<HardwareSettings['fabric']['http']>, at: At): typeof http {
  return {
    ...http,
    ...(http.ca === undefined ? {} : { ca: at(http.ca) }),
    ...(http.tokenFile === undefined ? {} : { tokenFile: at(http.tokenFile) }),
  };
}

/** A fabric's command is left as it is: it is found as a shell finds it. */
export function withPaths(settings: HardwareSettings, at: At): HardwareSettings {
  const { attestation, bmc, fabric, images, boot, nodes } = settings;
  const { dnsmasq } = boot;
  const firmware = dnsmasq?.firmware;
  return {
    ...settings,
    ...(bmc === undefined ? {} : { bmc: inBmc(bmc, at) }),
    ...(attestation === undefined ? {} : { attestation: withAttestationPaths(attestation, at) }),
    fabric: { ...fabric, ...(fabric.http === undefined ? {} : { http: inHttp(fabric.http, at) }) },
    images: {
      ...images,
      directories: (images.directories ?? []).map(at),
      ...(images.ca === undefined ? {} : { ca: at(images.ca) }),
    },
    boot: {
      ...boot,
      vmm: { ...boot.vmm, directory: at(boot.vmm.directory) },
      trusted: trustedImageAt(boot.trusted, at),
      ...(dnsmasq === undefined || firmware === undefined
        ? {}
        : { dnsmasq: { ...dnsmasq, firmware: { ...firmware, root: at(firmware.root) } } }),
    },
    nodes: Object.fromEntries(Object.entries(nodes).map(([name, own]) => [name, { ...own, bmc: inBmc(own.bmc, at) }])),
  };
}
