"""Data: words that end in a full stop without ending a sentence, and words that begin sentences, per language.

All words are lower case and without their last full stop. The English ones count in every language; where none is given, all
languages count together, but for abbreviations that are ordinary words elsewhere ("no", "col").
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Final

__all__ = ["AFTER_TIMES", "BEFORE_REFERENCES", "Words", "common_words", "words_of"]


class Words:
    """The words of one language, or with None of all of them together. A set is built when it is first asked for."""

    def __init__(self, language: str | None) -> None:
        self._language = language
        self.known = language is not None
        self.nouns_have_capitals = language == "de"

    @cached_property
    def abbreviations(self) -> frozenset[str]:
        """All that end in a full stop; a word that is none of these, and looks like none, ends its sentence there."""
        tables = (_NEVER, _BEFORE_NUMBER, _MAY_END, _ENDS)
        return frozenset().union(*(_words(table, self._language, "en") for table in tables))

    @cached_property
    def never(self) -> frozenset[str]:
        """No sentence ends here: "Dr.", "e.g."."""
        own = _words(_NEVER, self._language)
        if self._language == "en":
            return own
        return own - _COMMON if self._language is None else own | (_words(_NEVER, "en") - _COMMON)

    @cached_property
    def before_number(self) -> frozenset[str]:
        """No sentence ends here if a number follows: "No. 5", "p. 12"."""
        return _words(_BEFORE_NUMBER, self._language, "en")

    @cached_property
    def may_end(self) -> frozenset[str]:
        """A sentence ends here only if the next word is one that begins sentences: "Inc.", "U.S."."""
        words = _words(_MAY_END, self._language, "en")
        return words - self.never if self._language is None else words

    @cached_property
    def ends(self) -> frozenset[str]:
        """A sentence ends here if a capital follows: "etc.", "p.m."."""
        words = _words(_ENDS, self._language, "en")
        return words - self.never - self.may_end if self._language is None else words

    @cached_property
    def starters(self) -> frozenset[str]:
        """Begin sentences far more often than they are part of a name."""
        return _words(_STARTERS, self._language)

    @cached_property
    def conjunctions(self) -> frozenset[str]:
        """Begin a clause: a speaker may breathe before these."""
        return _words(_CONJUNCTIONS, self._language)

    @cached_property
    def coordinators(self) -> frozenset[str]:
        """Join clauses, but nouns more often."""
        return _words(_COORDINATORS, self._language)

    @cached_property
    def function_words(self) -> frozenset[str]:
        """Belong to what follows them: nobody breathes behind one."""
        return self.starters | _words(_FUNCTION_WORDS, self._language)

    @cached_property
    def ordinal_nouns(self) -> frozenset[str]:
        """A number with a full stop before one of these is an ordinal: "3. Juli"."""
        return _words(_ORDINALS, self._language)


_NEVER = {
    "en": (
        "p.s p.p.s mr mrs ms messrs mmes dr prof mx rev hon pres gov sen rep amb treas supt capt cpt cmdr cdr col "
        "gen lt sgt cpl pvt maj adm brig comdr ens det insp fr bro e.g i.e eg ie viz vs cf ca approx apt appt dept "
        "misc esp resp seq op.cit fwd attn asst assoc assn tech univ mfg natl intl bldg rm ste tel ext w.r.t a.k.a "
        "aka n.b nb q.v c.f r.i.p atty attys govs sens messr mlle mme repr ret eds trans rec incl excl"
    ),
    "de": (
        "fa dr prof hr hrn frl dipl ing z.b zb d.h dh u.a ua u.ä o.ä o.g u.u i.d.r i.a i.d.f i.h.v m.e n.chr v.chr "
        "s.o s.u s.a bzw bspw ggf evtl vgl ca inkl exkl sog gem gemäß lt zzt z.zt zz z.t zt bes insb insbes einschl "
        "ausschl mind ehem gegr geb gest verh allg entspr bzgl betr bez o.dgl resp st mag dr.med med phil jur rer nat "
        "h.c dipl.-ing dt engl franz lat griech span ital russ nördl südl östl westl tel abt hbf frhr hll urspr zus "
        "zw rd stellv tägl wg mtl jährl anm d.j d.m k.k p.a a.d i.v kath ev ev.-luth evang röm bürgerl hl mio mrd tsd "
        "mill"
    ),
    "fr": (
        "m mm mme mmes mlle mlles me dr pr prof mgr st ste p.ex par.ex c.-à-d c.à.d env ex cf av apr j.-c éd boul bd "
        "tél dir réf adj hab auj resp rép vs qqch qqn"
    ),
    "es": (
        "sr sra srta sres sras srtas d dª dña dr dra drs prof profa lic ing arq gral cnel tte cap sgto cmdte ud uds "
        "vd vds p.ej p.e ej aprox admón apdo dpto depto tel teléf izq dcha dcho excmo excma ilmo ilma mons rvdo fr "
        "sto sta s.a.r s.m vs prov atte col fco"
    ),
    "pt": (
        "sr sra srs srta dr dra drs dras prof profa profs eng arq exmo exma sto sta d v.exa v.s p.ex ex aprox tel r.s "
        "gen cel cap sgt ten cor des dep gov máx mín mons pe depto dpto cx obs ref"
    ),
    "it": (
        "sig sigg sigra sig.ra sig.na dott dott.ssa dr prof prof.ssa avv ing arch geom rag on sen mons p.es es ad.es "
        "cfr ca tel v.le p.zza c.so l.go sec gen col cap ten magg spett egr gent n.d.r"
    ),
    "nl": (
        "dhr mevr mw mr ir ing drs dr prof ds bijv b.v d.w.z o.a m.b.t i.v.m t.a.v t.o.v m.n n.a.v i.p.v t/m incl "
        "excl ca resp nl zgn zg evt st vgl tel afd gem geb"
    ),
    "sv": "bl.a t.ex dvs d.v.s s.k ca resp t.o.m fr.o.m f.d f.n p.g.a st kl tel dr prof inkl exkl ev jfr bl",
    "da": "bl.a f.eks fx dvs d.v.s ca hr fr dr prof pga p.g.a inkl ekskl evt jf kl tel mht m.h.t ifm i.f.m vedr st",
    "pl": "p dr prof mgr inż hab lek doc ks św gen płk mjr kpt por tj tzn tzw m.in np wg ok ul godz im jw ww ds zob tel sek",
    "cs": (
        "p dr prof doc ing mgr bc mudr judr phdr rndr např tj tzv tzn resp popř příp cca č.s tel ul nám gen plk sv srov mj stol"
    ),
    "tr": (
        "dr prof doç yrd öğr gör av alb gen org tğm yzb bnb sn hz ör örn bkz çev haz md müd mah cad sok apt tel t.c "
        "m.ö m.s s.s age nö ecz opr uz arş bul bulv blv kr çvş astsb ord alm ing fr ar far lat yun krş"
    ),
    "ru": (
        "г ул пр просп пер пл д кв корп обл р-н р.п пос дер оз им акад проф доц канд докт д-р г-н г-жа гр т.е т.н т.к "
        "т.о т.наз напр см ср п.s тел факс тыс млн млрд трлн англ нем фр лат греч рус укр итал исп яп кит араб тур "
        "лит св прп блж архиеп еп ок прим род ум в.s б бул наб ш ж.-д т.s о-в о-ва и.о вр.и.о сокр букв устар разг "
        "собств тж бывш ген полк подполк кап лейт серж совр назв"
    ),
    "uk": (
        "вул просп пров пл буд кв обл р-н м см напр т.зв т.зн т.к проф акад доц ім св тел тис млн млрд англ нім фр "
        "лат грец рос п.s о гр д-р п-н"
    ),
    "bg": "г ул бул пл кв бл вх ап обл гр проф акад доц инж т.е т.нар напр вж ср тел хил млн млрд англ нем фр лат",
    "el": "κ κα κος δρ καθ βλ π.χ δηλ τηλ μ.χ αγ οδ λεωφ στρ",
    "hi": "डॉ डा श्री श्रीमती प्रो पं सुश्री मो स्व कु इं एड कै ले कं लि",
    "mr": "डॉ श्री श्रीमती सौ प्रा प्रो कु चि रु पु वि गो ना बा शं कृ दे",
    "gu": "ડૉ ડો શ્રી શ્રીમતી પ્રો રૂ",
    "bn": "ডাঃ মোঃ মোসা প্রফ অ্যাড দ্র",
    "ta": "திரு திருமதி எம் என் எல் எஸ் எச் ஆர் எக்ஸ் எஃப்",
    "te": "శ్రీ శ్రీమతి ప్రొ ఎం ఎన్ ఎల్ ఎస్ ఎఫ్ ఆర్ హెచ్",
    "kn": "ಶ್ರೀ ಶ್ರೀಮತಿ ಪ್ರೊ ಎಂ ಎನ್ ಎಲ್ ಎಸ್ ಎಫ್ ಆರ್ ಎಚ್",
    "ml": "ശ്രീ ശ്രീമതി പ്രൊഫ എൻ എൽ എസ് ആർ എഫ് എച്ച്",
    "ar": "د أ م ص ت ق هـ",
    "he": "ד״ר פרופ גב מר עמ רח טל",
    "ro": "dl dna dra dr prof ing av bl sc et ap jud mun op cca d.hr î.hr gen col dlui dnei dvs ex de.ex conf univ lect asist acad arh tel loc com șos bd bdul jr sf pr mii mil mld aprox resp vs cf",
    "hu": "dr prof ifj id özv pl ún kb ill vö ld u.n.s ker tel",
    "fi": "esim ks mm ns n prof tri hra rva nk ekr klo puh s.s v.s vrt huom ko po",
    "vi": "ts ths gs pgs bs ks ls ô tp q p tx tt",
    "id": "dr drs dra prof ir h hj bpk sdr yth jl tgl pt cv s.d a.n u.p",
    "ca": "sr sra srta dr dra prof p.ex av tel aprox st sta mn",
    "lt": "pvz t.y žr plg vad red doc dr prof akad inž gyd kun šv gen plk mjr kpt tel vyr jaun buv mok dail kt pan dab pr tūkst mln mlrd",
    "ka": "ქ მაგ ე.ი ე.წ იხ შდრ პროფ აკად დოც ბ-ნი ქ-ნი წმ გენ ქუჩ ტელ დაახლ სთ",
    "pa": "ਡਾ ਸ ਸ੍ਰੀ ਸ਼੍ਰੀ ਸ੍ਰੀਮਤੀ ਪ੍ਰੋ ਮਿ ਸ੍ਰ ਬੀ ਐਮ ਐਸ ਕੇ ਐਨ ਆਰ ਜੀ ਪੀ ਐੱਮ ਐੱਸ",
}

_BEFORE_NUMBER = {
    "en": (
        "no nos nr fig figs eq eqs eqn tab sec secs sect ch chap chs vol vols p pp pg pgs par para art arts exs ref "
        "refs ver v ed pt pts rm rev ann nn ll op jan feb mar apr jun jul aug sep sept oct nov dec a.d b.c c rte hwy "
        "ph bk ser app pop circ mon tue tues wed thu thur thurs fri sat sun u.s.c ext n° est avg qty wt cir"
    ),
    "de": (
        "nr nrn abb tab kap bd bde s ss art abs ziff lit rn rdnr aufl jg hrsg § tel anm jan feb mär apr jun jul aug "
        "sep sept okt nov dez max min mind zi hausnr pos"
    ),
    "fr": "n no nos art p pp chap fig vol t éd al ch av réf janv févr avr juil sept oct nov déc max min §",
    "es": (
        "n no núm nro n.º art arts p pp pág págs cap caps fig figs vol t c av máx mín ene feb mar abr may jun jul ago "
        "sept oct nov dic km"
    ),
    "pt": (
        "n no núm nro séc sécs art arts p pp pág págs cap fig figs vol av r máx mín jan fev mar abr mai jun jul ago set out nov dez km"
    ),
    "it": "n nn art artt p pp pag pagg cap fig figg vol t gen feb mar apr mag giu lug ago set ott nov dic max min",
    "nl": "nr nrs art p pp blz fig hfst afb tab dl jan feb mrt apr jun jul aug sept okt nov dec max min",
    "sv": "nr s sid kap fig tab jan feb mars apr aug sept okt nov dec max min ca st",
    "da": "nr s kap fig tab § jan feb mar apr aug sept okt nov dec stk max min",
    "pl": "ur zm nr nry s ss str rys tab tabl rozdz art ust pkt poz t ok godz",
    "cs": "č s str obr tab kap čl odst sv",
    "tr": "no nu s ss şek bkz yy cilt",
    "ru": "стр с рис табл гл п пп пункт ст разд т тт кн вып изд в вв № ч эт мин макс",
    "uk": "с стор рис табл гл п пп ст т кн №",
    "bg": "с стр рис табл гл чл ал т №",
    "el": "αρ σ σελ κεφ εικ πίν τ τόμ",
    "id": "no hlm hal bab",
    "ro": "nr p pag cap art alin lit fig vol sec str et ap min max",
    "hu": "sz old o",
    "vi": "số tr",
    "hi": "सं पृ क्र रु",
    "ca": "núm p pàg art cap fig",
    "lt": "nr p psl pav lent str t d m val min sek a g",
    "ka": "გვ თ ტ ნომ მუხ წ",
    "pa": "ਪੰ ਨੰ",
}

_MAY_END = {
    "en": (
        "inc ltd llc corp co bros plc pty jr sr esq ave blvd rd ln pl hwy pkwy ct ph.d phd m.d b.a m.a b.s m.s "
        "b.sc m.sc ll.b j.d d.d.s ed.d m.b.a u.s u.k u.n e.u u.s.a u.s.s.r d.c n.y l.a p.o a.d b.c b.c.e c.e ibid op "
        "cit et.al al jan feb apr jun jul aug sept oct nov dec mon tue tues wed thu thur thurs fri hr max ft cal "
        "calif conn fla ga ind ky md mich minn mont nev okla tenn tex va vt wis wyo ariz colo govt mgr pkg yr yrs st "
        "mt sec hrs lbs oz tsp tbsp tbs sq cu mph deg v feat"
    ),
    "de": (
        "gmbh ag co kg e.v e.k gebr str bhf std sek min kap abb aufl n.n d.ä d.j sen jun bd hrsg jg zit ebd st jh jhd "
        "jhdt jahrh"
    ),
    "fr": "av cie sté s.a s.a.r.l bd jr chap fig vol max min éd",
    "es": "av cía s.a s.l s.a.s ltda ee.uu eeuu pág vol jr máx mín",
    "pt": "av cia ltda s.a vol pág jr máx mín",
    "it": "s.p.a s.r.l srl spa pag vol fig",
    "nl": "b.v n.v blz",
    "pl": "sp z.o.o s.a r w ul",
    "cs": "s.r.o a.s r",
    "tr": "a.ş ltd şti cad sok mah no",
    "ru": "г гг в вв ул стр ред изд пер",
    "uk": "грн р рр",
    "hi": "ए बी सी डी ई एफ जी एच आई जे के एल एम एन ओ पी क्यू आर एस टी यू वी डब्ल्यू एक्स वाई जेड",
    "bg": "лв г",
    "el": "α.ε ο.ε",
    "hu": "kft bt rt zrt",
    "id": "tbk",
}

_ENDS = {
    "en": "etc a.m p.m am pm r.s.v.p",
    "de": "usw u.s.w usf etc u.v.m u.v.a u.ä.m o.ä",
    "fr": "etc",
    "es": "etc a.m p.m",
    "pt": "etc",
    "it": "ecc etc",
    "nl": "enz e.d etc m.a.w",
    "sv": "osv o.s.v m.m m.fl o.d etc",
    "da": "osv m.m m.fl o.l etc",
    "pl": "itd itp etc",
    "cs": "atd apod aj",
    "tr": "vb vs vd",
    "ru": "т.д т.п др пр э н.э руб коп долл",
    "uk": "т.д т.п ін грн",
    "bg": "др т.н",
    "el": "κτλ κ.λπ κ.ά π.μ μ.μ",
    "ro": "etc ș.a ș.a.m.d",
    "hu": "stb",
    "fi": "jne ym yms",
    "vi": "v.v",
    "id": "dll dsb dst",
    "ca": "etc",
    "lt": "pan kt t.t",
    "ka": "ა.შ სხვ",
    "pa": "ਆਦਿ",
}

_STARTERS = {
    "en": (
        "the a an this that these those it its he she they we you i there here his her their our my your who what "
        "when where why how which whose if but and or so then however although though while because since after "
        "before in on at as for from to by with without during once until is are was were do does did can could will "
        "would should may might must have has had let let's please yes no not now today yesterday tomorrow also even "
        "still yet just only perhaps maybe all some many most few both each every another other such one two three "
        "it's he's she's they're we're you're i'm i've i'll i'd that's there's here's what's who's don't didn't "
        "doesn't isn't wasn't can't won't unlike despite instead according first second finally next last later "
        "meanwhile moreover furthermore therefore thus nevertheless nonetheless otherwise overall sometimes usually "
        "often never always nobody everyone everybody someone something nothing everything people any none several "
        "about sure okay thanks sorry well hello over under between analysts officials experts researchers scientists critics see note ask try use make "
        "take go come get add"
    ),
    "de": (
        "der die das ein eine einer einem einen dies dieser diese dieses diesem es er sie wir ihr ich du man mein "
        "sein unser und aber oder doch denn wenn als da dann danach dort hier heute gestern morgen nun jetzt auch "
        "noch nur so wie was wer wo warum wann weil obwohl während nach vor bei mit ohne für von zu zum zur im in an "
        "am auf aus um durch unter über seit bis trotz wegen ist sind war waren hat haben hatte kann können wird "
        "werden bitte ja nein nicht kein keine viele alle einige mehrere beide jeder jede jedes außerdem allerdings "
        "jedoch deshalb daher dabei dazu damit darum dafür insgesamt zuerst schließlich später zwar ebenso sowohl "
        "weder seine ihre deren dessen welche welcher jene"
    ),
    "fr": (
        "le la les un une des l' ce cet cette ces il elle ils elles on nous vous je tu et mais ou donc or car si "
        "quand comme que qui quoi où pourquoi comment dans en à au aux de du par pour avec sans sur sous après avant "
        "pendant depuis selon c'est c' son sa ses leur leurs mon ma mes notre votre aujourd'hui hier demain ainsi "
        "alors puis ensuite enfin cependant toutefois néanmoins pourtant plusieurs certains tous toutes chaque d' j' "
        "n' s' y voici voilà oui non lors bien"
    ),
    "es": (
        "el la los las un una unos unas lo este esta estos estas ese esa eso esto aquel él ella ellos ellas yo tú "
        "usted nosotros y e pero o sino si cuando como que quien qué quién dónde cómo cuándo cuál por para con sin en "
        "a al de del desde hasta según sobre tras durante entre su sus mi mis tu es son fue fueron era hay ha han no "
        "sí ya también además embargo así entonces luego después antes hoy ayer mañana aquí allí todos todas cada "
        "muchos algunos otro otra se le les aunque mientras"
    ),
    "pt": (
        "o a os as um uma uns umas este esta estes estas esse essa isso isto aquele ele ela eles elas eu tu você nós "
        "e mas ou se quando como que quem qual onde porque por para com sem em no na nos nas ao à de do da dos das "
        "desde até segundo sobre após durante entre seu sua seus suas meu minha é são foi foram era há não sim já "
        "também além assim então depois antes hoje ontem amanhã aqui ali todos todas cada muitos alguns outro outra "
        "embora enquanto porém"
    ),
    "it": (
        "il lo la i gli le l' un uno una questo questa questi queste quello quella egli lui lei loro io tu noi voi e "
        "ed ma o se quando come che chi cosa dove perché per con senza in nel nella a al alla di del della da dal su "
        "tra fra dopo prima durante secondo suo sua è sono era erano ha hanno non sì anche inoltre così allora poi "
        "oggi ieri domani qui tutti ogni molti alcuni altro si c'è però mentre"
    ),
    "nl": (
        "de het een dit dat deze die hij zij ze wij we ik jij je u men en maar of want dus als toen wanneer omdat "
        "hoewel hoe wat wie waar waarom in op aan bij met zonder voor van naar na door over onder tussen sinds tot is "
        "zijn was waren heeft hebben kan er hier daar nu ook nog niet geen alle veel sommige elke vandaag gisteren "
        "morgen daarna"
    ),
    "sv": (
        "den det de en ett han hon vi du jag man och men eller när om som på i av för med utan efter före under vad "
        "vem hur är var har inte också nu här där detta denna dessa"
    ),
    "da": (
        "den det de en et han hun vi du jeg man og men eller når hvis som på i af for med uden efter før under hvad "
        "hvem hvordan er var har ikke også nu her der dette denne disse"
    ),
    "pl": (
        "ten ta to te ci on ona ono oni my wy ja ty i a ale lub albo jeśli gdy kiedy jak co kto gdzie dlaczego w we "
        "na do z ze od po przez dla przed jest są był była nie tak też także jednak potem teraz tutaj tam"
    ),
    "cs": (
        "ten ta to on ona ono my vy já ty a ale nebo když jak co kdo kde proč v ve na do z ze od po pro před je jsou "
        "byl byla ne ano také však potom nyní"
    ),
    "tr": (
        "bu şu o bir ben sen biz siz onlar ve ama fakat ancak çünkü eğer nasıl ne kim nerede neden için ile sonra "
        "önce şimdi bugün dün yarın evet hayır da de her bazı bütün tüm"
    ),
    "ru": (
        "он она оно они мы вы я ты это этот эта эти тот та те в во на с со к ко по из от до для при о об за под над "
        "без через после перед и а но или если когда как что кто где почему зачем также однако поэтому затем потом "
        "сегодня вчера завтра здесь там все всё каждый многие некоторые его её их мой наш ваш не нет да уже ещё так "
        "есть был была были"
    ),
    "uk": (
        "він вона воно вони ми ви я ти це цей ця ці той та те у в на з із до від для при про за під над без через "
        "після перед і й а але або якщо коли як що хто де чому також однак тому потім"
    ),
    "bg": (
        "той тя то те ние вие аз ти това този тази тези в във на с със към по из от до за при и а но или ако когато "
        "как какво кой къде защо също обаче"
    ),
    "el": (
        "ο η το οι τα ένας μια ένα αυτός αυτή αυτό και αλλά ή αν όταν όπως που τι ποιος πού γιατί σε στο στη από με "
        "για μετά πριν δεν ναι όχι"
    ),
    "id": (
        "ini itu dia mereka kami kita saya anda dan tetapi atau jika ketika karena untuk di ke dari pada dengan tanpa "
        "setelah sebelum"
    ),
    "ro": (
        "un o el ea ei ele noi voi eu tu acest această și dar sau dacă când cum ce cine unde în la de pe cu fără după "
        "înainte nu da"
    ),
    "hu": "a az egy ez ő ők mi ti én te és de vagy ha amikor hogy ki hol miért nem igen is",
    "fi": "se ne hän he me te minä sinä tämä nämä ja mutta tai jos kun miten mikä kuka missä miksi ei kyllä myös",
    "ca": (
        "el la els les un una aquest aquesta ell ella jo tu i però o si quan com que qui on per amb sense en a de no sí també"
    ),
    "lt": "tai jis ji jie jos mes jūs aš tu šis ši tas ta ir bet o kad kai kaip kas kur kodėl ar su be iš į nuo per po prie taip ne",
    "vi": "tôi bạn anh chị nó họ chúng đây đó và nhưng hoặc nếu khi vì",
}

_CONJUNCTIONS = {
    "en": "but because which while where when so although though since unless until whereas if whether",
    "de": "aber weil dass denn sondern wenn ob obwohl während",
    "fr": "mais car parce donc lorsque quand si puisque",
    "es": "pero porque cuando donde aunque si sino",
    "pt": "mas porque quando onde embora",
    "it": "ma perché quando dove mentre",
    "nl": "maar want omdat dat als terwijl",
    "ru": "но потому что который которая которые когда где если",
    "pl": "ale bo że który która które gdy jeśli",
    "sv": "men eftersom att när om",
    "da": "men fordi at når hvis",
    "tr": "ama çünkü fakat ancak",
    "uk": "але тому що який яка які коли якщо",
    "cs": "ale protože že který která když",
    "id": "tetapi karena",
    "el": "αλλά γιατί όταν",
    "hi": "लेकिन क्योंकि कि",
    "ar": "لكن لأن",
    "ko": "그리고 그러나 하지만",
    "vi": "nhưng vì",
}

_COORDINATORS = {
    "en": "and or",
    "de": "und oder",
    "fr": "et ou",
    "es": "y o",
    "pt": "e ou",
    "it": "e o",
    "nl": "en of",
    "ru": "и или",
    "pl": "i lub",
    "sv": "och eller",
    "da": "og eller",
    "tr": "ve veya",
    "uk": "і й або",
    "cs": "a nebo",
    "id": "dan atau",
    "el": "και ή",
    "vi": "và hoặc",
}

# Besides those that begin sentences.
_FUNCTION_WORDS = {
    "en": "of than into onto upon per via nor not be been being very more less such that",
    "de": "den dem des als zum zur gegen sehr mehr zwischen dass",
    "fr": "que qui ne se lui très plus entre vers chez contre",
    "es": "que no muy más contra hacia",
    "pt": "que não muito mais pela pelo pelas pelos às aos num numa",
    "it": "che non molto più dello degli delle dei nei nelle sul sulla dalla dal agli alle",
    "nl": "dan te om tot tegen zeer meer",
    "ru": "не ни что чем между об ко",
    "pl": "że nie się ze o u",
    "sv": "att till från än",
    "da": "at til fra end",
    "cs": "že se u o za",
    "uk": "що не між",
    "el": "του της των τον την στον στην",
}

# Languages that write ordinals as a number and a full stop. The months and the usual nouns after them.
_ORDINALS = {
    "de": (
        "januar jänner februar märz april mai juni juli august september oktober november dezember jan feb mrz apr "
        "jun jul aug sep sept okt nov dez jahrhundert jahrhunderts jahrhunderte jh jhd jahrtausend weltkrieg "
        "weltkriegs klasse stock etage platz mal tag tages kapitel auflage runde spieltag minute bundesliga liga "
        "lebensjahr geburtstag jahrestag kreisklasse armee division bezirk semester schuljahr jahr woche monat und "
        "bis"
    ),
    "da": "januar februar marts april maj juni juli august september oktober november december",
    "no": "januar februar mars april mai juni juli august september oktober november desember",
    "fi": (
        "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta syyskuuta lokakuuta "
        "marraskuuta joulukuuta"
    ),
    "cs": "ledna února března dubna května června července srpna září října listopadu prosince",
    "sk": "januára februára marca apríla mája júna júla augusta septembra októbra novembra decembra",
    "hr": "siječnja veljače ožujka travnja svibnja lipnja srpnja kolovoza rujna listopada studenog prosinca",
    "sr": "januara februara marta aprila maja juna jula avgusta septembra oktobra novembra decembra",
    "hu": "január február március április május június július augusztus szeptember október november december",
    "tr": "yüzyıl yüzyılda yüzyılın sınıf kat dönem cilt bölüm madde dünya lig hafta gün ay yıl ordu kolordu",
    "pl": "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
}

# What may follow "p.m." within its sentence: days, time zones.
AFTER_TIMES: Final = frozenset(
    "est edt pst pdt cst cdt mst mdt et pt ct mt gmt utc cet cest bst ist eastern pacific central mountain zulu "
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thurs fri sat sun".split()
)
# Behind these, "[1]" is no mark of a source: the words point at it ("see [1]"), or it is an index or a list of numbers.
BEFORE_REFERENCES: Final = frozenset(
    "in to by from of with per and or as on under at for than via like both is are was were the this that these those "
    "von mit und oder aus bei zu wie dans de par et ou avec en y o con por di da e em do com van door met of до в по из с от и или "
    "see cf siehe laut gemäß nach selon voir según véase siga segundo veja secondo vedi volgens zie согласно см źródło ref refs "
    "reference eq eqs equation fig figure section step table option item page chapter number note line question answer case "
    "array arrays args items list lists tuple set vector vectors matrix range interval between scores value values rows names "
    "numbers data index result results words keys points return returns returned gives yields prints outputs equals output input".split()
)
# Abbreviations of one language that are ordinary words of another.
_COMMON = frozenset(
    "vad ir com kun ok mind doc mm mill mons bes lit lat tab gen rec age al am amb ar av bl ca cap col cor des det di do ed es est et ex far fr gem hon im in is me med mi no on op or pan pe po "
    "por sa sen sens so ten о".split()
)


# Scripts without capitals and without abbreviations of their own: foreign words among them are mostly English.
_ENGLISH_WITHIN = frozenset("zh ja ko th lo km my am bo fa ur".split())


@cache
def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _words(table: dict[str, str], *languages: str | None) -> frozenset[str]:
    """Return the words that these languages have in a table; None stands for all languages."""
    parts = table.values() if None in languages else [table[language] for language in languages if language in table]
    found = [_split(words) for words in parts]
    return found[0] if len(found) == 1 else frozenset().union(*found)


for _table in (_NEVER, _BEFORE_NUMBER, _MAY_END, _ENDS):
    _split(_table["en"])  # they count in every language: no turn waits for them


def common_words() -> dict[str, frozenset[str]]:
    """Return for each language the words that begin sentences, join clauses or belong to what follows them."""
    tables = (_STARTERS, _CONJUNCTIONS, _COORDINATORS, _FUNCTION_WORDS)
    languages = sorted(set().union(*tables))
    return {language: frozenset().union(*(_words(table, language) for table in tables)) for language in languages}


@cache
def words_of(language: str | None) -> Words:
    """Return the words of a language ("de", "pt-BR"); for None, of all languages together.

    The latter leave out abbreviations that are ordinary words of another language.
    """
    if language is None:
        return Words(None)
    code = language.replace("_", "-").split("-")[0].lower()
    if code in _ENGLISH_WITHIN:
        code = "en"
    elif code not in _STARTERS and code not in _NEVER:
        return words_of(None)
    return Words(code) if code == language else words_of(code)
