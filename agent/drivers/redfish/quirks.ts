/**
 * What vendors' BMCs do otherwise than the Redfish schema says, as data. Each row names where it is written.
 *
 * Invariant: a row only changes how something is asked for. What came of it is read back the same way for everybody, so that a row
 * that is wrong costs time, and never a false reading.
 */

export interface Quirk {
  readonly name: string;
  /** Whether it is this kind, by what the service root and the system say of their maker. */
  readonly is: RegExp;
  /** Whether BootSourceOverrideMode goes with a boot override: as it is reported, or never. */
  readonly sendsMode: boolean;
  /** The target that goes with BootSourceOverrideEnabled Disabled, where the BMC wants one. */
  readonly disabledTarget?: 'None' | 'Pxe';
  /** What If-Match says where the resource came without an ETag. */
  readonly missingEtag?: '*';
  readonly sources: readonly string[];
}

const asTheSchemaSays: Quirk = { name: 'Redfish', is: /(?:)/, sendsMode: false, sources: ['DMTF DSP0266, DSP0268'] };

const quirks: readonly Quirk[] = [
  {
    // iDRAC9 boots from the disk in spite of Once, and shows Continuous as Disabled after the boot, with a changed BootOrder; iDRAC10
    // takes Boot at the settings resource alone. Continuous, a reading of BootOrder, and @Redfish.Settings serve them all.
    name: 'Dell iDRAC',
    is: /\bdell\b|idrac/i,
    sendsMode: false,
    sources: [
      'github.com/ironcore-dev/metal-operator/issues/80',
      'github.com/dell/iDRAC-Redfish-Scripting/issues/319',
      'github.com/dell/terraform-provider-redfish/pull/138',
      'github.com/stmcginnis/gofish/pull/511',
    ],
  },
  {
    // Refuses Enabled while the target is None, and any value of the mode, the one that it shows included.
    name: 'HPE iLO',
    is: /\bhpe?\b|hewlett|\bilo\b/i,
    sendsMode: false,
    disabledTarget: 'Pxe',
    sources: [
      'github.com/ironcore-dev/metal-operator/pull/998',
      'github.com/ansible-collections/community.general/issues/3509',
    ],
  },
  {
    // Sets the mode back to its default when it is not sent; older ones have none, and then refuse one.
    name: 'Supermicro',
    is: /supermicro/i,
    sendsMode: true,
    sources: ['github.com/DMTF/Redfishtool/pull/106', 'github.com/ironcore-dev/metal-operator/issues/982'],
  },
  {
    // Wants an If-Match on every PATCH, and boot properties at the settings resource (/SD) that the system links to.
    name: 'AMI MegaRAC',
    is: /\bami\b|megatrends|megarac|asrock|gigabyte/i,
    sendsMode: true,
    missingEtag: '*',
    sources: [
      'github.com/stmcginnis/gofish/issues/171',
      'github.com/DMTF/Redfish-Tacklebox/issues/144',
      'pubs.lenovo.com/tsm/patch_systems_instance_sd',
    ],
  },
];

/** @param words vendor, product, manufacturer, model: whatever the BMC says of itself */
export function quirkOf(words: readonly (string | undefined)[]): Quirk {
  const text = words.filter((word) => word !== undefined).join(' ');
  return quirks.find(({ is }) => is.test(text)) ?? asTheSchemaSays;
}
