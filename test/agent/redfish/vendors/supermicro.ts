/**
 * Supermicro X11 and later, and X10.
 *
 * Sources:
 * - github.com/DMTF/Redfishtool/pull/106: a boot override that comes without its mode sets the mode back to its default.
 * - github.com/ironcore-dev/metal-operator/issues/982: X10 has no BootSourceOverrideMode.
 */
import { type Answer, type Json, refused, VendorBmc } from './vendor-bmc.ts';

export class SupermicroX11 extends VendorBmc {
  readonly systemId: string = '1';
  readonly maker: Json = { Manufacturer: 'Supermicro', Model: 'SYS-1029P' };

  override patchBoot(_path: string, boot: Json): Answer {
    this.boot.mode = 'Legacy';
    this.take(boot);
    return { status: 200, body: {} };
  }
}

export class SupermicroX10 extends VendorBmc {
  readonly systemId: string = '1';
  readonly maker: Json = { Manufacturer: 'Supermicro', Model: 'X10SRM-TF' };

  override bootResource(): Json {
    const { BootSourceOverrideMode: _none, ...boot } = super.bootResource();
    return boot;
  }

  override patchBoot(_path: string, boot: Json): Answer {
    if ('BootSourceOverrideMode' in boot) return refused(400, 'Base.1.0.PropertyUnknown', 'BootSourceOverrideMode');
    this.take(boot);
    return { status: 200, body: {} };
  }
}
