/** How a machine loads the hypervisor: an iPXE script for BIOS (Multiboot) and UEFI (its loader). */

export interface VmmScriptParts {
  /** `http://host:port` of the boot server as the machine reaches it. */
  readonly server: string;
  /** Of this start: the files are for it alone. */
  readonly fileId: string;
  readonly bios: string;
  readonly uefi: string;
}

/** A machine on which it does not start asks again. */
export function vmmScript({ server, fileId, bios, uefi }: VmmScriptParts): string {
  const files = `${server}/boot/${fileId}`;
  return [
    // biome-ignore lint/suspicious/noTemplateCurlyInString: iPXE's own variable
    'iseq ${platform} efi && goto uefi ||',
    `kernel ${files}/${bios} && boot || goto again`,
    ':uefi',
    `chain ${files}/${uefi} || goto again`,
    ':again',
    'sleep 3',
    `chain --replace --autofree ${server}/boot.ipxe`,
    '',
  ].join('\n');
}
